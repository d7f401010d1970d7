"""Everything that knows the K2 market data platform; the rest of k2run reaches it through stack files alone."""
