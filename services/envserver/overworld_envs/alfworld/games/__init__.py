"""The games: which there are, how new ones are made, what they ask for, and how they are won."""
