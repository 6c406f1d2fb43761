"""What an evaluation wrote down."""
