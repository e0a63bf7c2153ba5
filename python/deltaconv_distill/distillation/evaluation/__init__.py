"""How close a student is to its teacher."""
