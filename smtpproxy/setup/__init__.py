"""A first configuration: what the machine shows, what was answered, the files made of both."""
