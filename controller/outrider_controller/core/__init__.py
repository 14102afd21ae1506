"""The controller's judgement: state and events in, records out. No clock, chance, disk, network or thread."""
