"""All that knows Flask: from its request to an answer."""
