"""The agent: turns a node's signals into observations, reports them, and runs the ranks of a job."""
