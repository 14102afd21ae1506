"""What a training script imports, and the records that all sides speak. Standard library only."""
