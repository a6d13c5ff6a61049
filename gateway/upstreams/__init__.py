"""The services that the gateway calls: their clients, addresses and state."""
