"""A page for people: drop a picture, see what the model finds in it. Plain HTML, CSS and JavaScript, and what serves them."""
