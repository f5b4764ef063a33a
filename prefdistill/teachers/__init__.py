"""The teachers: messages in, replies out, through the request layer."""
