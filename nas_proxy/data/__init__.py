"""Images: where they come from, who may see which, how they are held, augmented and drawn as pictures."""
