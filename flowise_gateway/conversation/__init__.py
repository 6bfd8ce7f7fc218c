"""Which Flowise session a transcript continues, and the turns that a request becomes."""
