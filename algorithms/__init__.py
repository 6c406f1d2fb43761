"""The methods, one a file: config, loss, class."""
