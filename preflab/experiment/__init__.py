"""A world, its encoded splits, and the stages built from them."""
