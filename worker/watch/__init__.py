"""What follows the devices' figures over time."""
