"""Jobs on many machines, by an engine that others maintain: Ray."""
