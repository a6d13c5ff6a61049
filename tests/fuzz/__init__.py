"""The parts of `make fuzz`: messages made from the contract's descriptors, and checks of the answers."""
