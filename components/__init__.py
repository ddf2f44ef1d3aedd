"""One Pulumi ComponentResource per concept; each renders the templates of its own name."""
