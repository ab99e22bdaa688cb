"""Price books and the price a GPU gets from them."""
