"""PPO, DPO, RLOO and best-of-n on a small instruct model and human preferences."""
