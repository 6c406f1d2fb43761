"""Whether a method keeps the contract, and ends where it should."""
