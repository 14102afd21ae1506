"""What a rank's flight recorder tells: which collectives it has enqueued, and which of them it still waits for."""
