"""What writes the contract in another language: one package a language."""
