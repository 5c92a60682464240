"""How sleeping phones hear of it: plans, decides and sends pushes from the outbox."""
