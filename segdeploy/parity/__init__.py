"""Parity: may a candidate (an artifact, a server) replace the original, and if not, where does it differ?"""
