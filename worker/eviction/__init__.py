"""Which model goes to free memory: the plan, what ranks the candidates, and what it remembers. Pure."""
