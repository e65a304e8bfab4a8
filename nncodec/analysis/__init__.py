"""What latents are good for besides pixels: vectors to find pictures by, and how unusual a picture is."""
