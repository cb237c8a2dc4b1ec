"""What is minimised: classification, projection and informative losses, and how they add up."""
