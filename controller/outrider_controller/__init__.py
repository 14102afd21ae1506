"""The controller: turns observations into incidents, diagnoses, decisions and actions, and keeps the ledger."""
