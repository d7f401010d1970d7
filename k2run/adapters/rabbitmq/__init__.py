"""RabbitMQ: connections and the actions on them."""
