"""What happened, counted and kept in bounded memory."""
