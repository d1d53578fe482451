"""Parts of Retort inside the tools of others. They see the ground floor and the losses; nothing of Retort sees them."""
