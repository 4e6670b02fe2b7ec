"""One installation on one machine: Ray, Serve and HAProxy started together, and ended together."""
