from minddpm.diffusion.bound import bits, normal_kl


def kl_bits_per_dim(mean1, log_variance1, mean2, log_variance2):
    return bits(normal_kl(mean1, log_variance1, mean2, log_variance2))
