"""Each metric of a public set against cases worked out from its official rule."""
