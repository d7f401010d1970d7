"""What the schema registry's actions and those of Kafka share: how it is asked, and Avro in its framing."""
