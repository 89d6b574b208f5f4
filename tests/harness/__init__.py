"""What several folders of tests share, and nothing of the product needs."""
