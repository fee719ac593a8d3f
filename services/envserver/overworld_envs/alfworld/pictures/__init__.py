"""Pictures of what the agent sees, drawn from facts, or taken from AI2-THOR."""
