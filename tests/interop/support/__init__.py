"""What the suites share: programs that they start, resources that they serve, components that they install."""
