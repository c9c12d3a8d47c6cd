"""A simulated fleet: nodes that load, work, evict and fail, and rules by which requests are placed on them."""
