"""Which model goes to make room: the plan, what ranks the candidates, and what it remembers. Pure."""
