"""Pictures: where they come from, which are taken, and what is known of them before a model sees them."""
