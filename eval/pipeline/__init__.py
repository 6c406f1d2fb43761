"""The order of work: settings, stages, judging; methods trained, evaluated and compared."""
