"""Modules made of ops: blocks, flow, alignment, upsampling."""
