"""Schema history of the app "messaging"."""
