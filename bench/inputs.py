"""What the benchmarks send: sentences as people type them, and JPEGs with the detail of photographs."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SENTENCES = (
    "猫",
    "海边的日落",
    "一杯热咖啡",
    "雪山下的湖泊",
    "穿红裙子的女孩",
    "一只黑狗在草地上奔跑",
    "夜晚城市的霓虹灯",
    "两个男人在街上下象棋",
    "一个男孩在泳池里滑滑梯",
    "厨师在厨房里炒菜",
    "骑自行车的人经过一座石桥",
    "孩子们在操场上踢足球",
    "一位老人坐在长椅上看报纸",
    "下雨天打着伞的女人和她的小狗",
    "戴着安全帽的工人站在脚手架上",
    "一辆蓝色的公共汽车停在车站旁边",
    "生日蛋糕上插着五根点燃的蜡烛",
    "一群大雁从金色的稻田上空飞过",
    "女孩抱着吉他坐在窗台上唱歌",
    "登山者站在悬崖边上，远处是连绵的雪山",
    "一个穿黄色雨衣的小朋友踩在水坑里，水花四溅",
    "市场里卖水果的摊位，有苹果、香蕉和一大堆西瓜",
    "一对新人在教堂门口合影，身后的朋友们撒着花瓣",
    "冲浪的人从一个巨大的浪头上滑下来，天空布满乌云",
)


def photographs(count: int, width: int = 500, height: int = 375, seed: int = 0) -> list[bytes]:
    """JPEGs of quality 85 whose detail falls off with frequency as that of photographs does (1/f)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    falloff = 1 / np.maximum(np.hypot(rows, columns), 1 / width)
    files = []
    for _ in range(count):
        layers = []
        for _ in range(3):
            phases = np.exp(2j * np.pi * rng.random(falloff.shape))
            layer = np.fft.irfft2(falloff * phases, s=(height, width))
            layers.append(np.clip(128 + 50 * layer / layer.std(), 0, 255))
        file = io.BytesIO()
        Image.fromarray(np.stack(layers, axis=-1).astype(np.uint8)).save(file, "JPEG", quality=85)
        files.append(file.getvalue())
    return files
