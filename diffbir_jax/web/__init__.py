"""A page in the browser: static files on top of the service, without anything from elsewhere."""
