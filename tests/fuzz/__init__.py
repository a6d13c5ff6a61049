"""What `make fuzz` is made of: messages from the contract's descriptors, and the judgement of the answers."""
