"""Linux Virtual Server as a library."""
