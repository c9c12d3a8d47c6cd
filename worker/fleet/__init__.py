"""Many workers as one: which node a request goes to (pure), and the nodes themselves, on Ray (extra ``fleet``)."""
