"""Files of the web, fetched gently and from nowhere but where they may be."""
