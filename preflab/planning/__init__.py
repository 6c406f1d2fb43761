"""What a run will cost, told before it starts: passes of the very code, on models that have shapes and no weights."""
