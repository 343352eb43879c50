"""Whether a podcast in two languages is searched fairly: recall in each, which language comes first, and what evens it out.

    python benchmarks/podcast.py --data DATA [--store STORE] [--clips 60] [--turn 5] [--others] [--json]

DATA has the folder speech with transcripts.csv (file, language, speaker, text). STORE is kept if it is given, and a later run
with the same options starts from it.

Podcast: clips in English and Mandarin by turns, as many of each, joined with pauses of 0.8 to 1.5 seconds into episodes of 20.
The offline preset takes them in as it would any recording: where spans begin and end, what they say and in which language is
for the pipeline to find out. Whisper is told one language for half a minute, so turns of less than that, as with --turn 1,
lose most of what is said in one of them. Languages are held apart by the calibration from 30 spans of each on, which takes the
clips left over: --others. Each clip's words are known; the middle 60 % of them are asked, and a span is right if it has at
least half of the clip's seconds, or, if none has, as many as any.

    R@k          a right span is among the first k
    own first    the first span is in the language asked, as the pipeline tells it
    places       of the first ten places the share that is in the language asked; of the spans as many are ("fair")

Facts: 40 everyday facts, written for this, each as a sentence in English and one in Mandarin, and a question for it in each
that has other words. There is no such speech to be had, so what is measured here is the space of texts alone: the facts, and
the podcast's transcripts between which they are to be found, are text nodes with the language that spans have.

    R@1          the fact is found first, in whichever language
    both@5       of its two sentences how many are among the first five
    en/zh first  the one in that language comes before the other, of ten
    gap          rank of the other one minus rank of the one in the language asked

Asked in both languages at once is what a perfect `TranslateQuery` would give; its gap is the Mandarin rank minus the English.
"""

import argparse
import csv
import json
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, TextNode
from numpy.typing import NDArray

from llama_index_mm import MediaQuery, MultiModalIndex
from llama_index_mm.evaluation import FactRanking, QueryScores, hit_at, language_skew, recall_at, summarise
from llama_index_mm.media import SAMPLE_RATE, Waveform, load_audio, wav_bytes

LANGUAGES = ("en", "zh")
EPISODE = 20  # clips
DEPTH = 10
NEAR = 5
SETTINGS: dict[str, dict[str, Any]] = {
    "not calibrated": {"calibrated": False},
    "balance 0": {},
    "balance 0.5": {"language_balance": 0.5},
    "balance 1": {"language_balance": 1.0},
    "quotas": {"at_least": {f"language:{language}": 2 for language in LANGUAGES}},
}
# Each line: what is said | how it is asked for. First in English, then the same in Mandarin.
FACTS = """
The city library opens at nine and closes at eight on weekdays. | When can I go to the library from Monday to Friday?
市图书馆工作日上午九点开门，晚上八点关门。 | 周一到周五什么时候可以去图书馆？
The new subway line to the airport will start running in March. | How soon will there be a metro to the airport?
通往机场的新地铁线三月开始运行。 | 去机场的地铁什么时候通车？
Green tea should be brewed with water that is not quite boiling. | How hot should the water for green tea be?
泡绿茶的水不要烧到沸腾。 | 绿茶用多热的水泡？
The old stone bridge was closed for repairs after the flood. | Why can't we cross the old bridge?
洪水过后，老石桥因维修而关闭。 | 老桥为什么不能走了？
Farmers expect a poor wheat harvest because of the dry spring. | What did the lack of rain do to the wheat?
由于春天干旱，农民预计小麦歉收。 | 雨水太少对小麦有什么影响？
The museum shows photographs of the first flight across the ocean. | Where can I see pictures of the first plane over the sea?
博物馆展出首次飞越大洋的照片。 | 哪里能看到第一次跨海飞行的图片？
A glass of warm milk before bed helps some people fall asleep. | What can I drink to sleep better?
睡前喝一杯热牛奶能帮助一些人入睡。 | 喝什么可以睡得更好？
The price of eggs has doubled since last summer. | How much more do eggs cost now?
鸡蛋的价格比去年夏天涨了一倍。 | 现在鸡蛋贵了多少？
The football team lost the final after extra time. | How did the championship match end for the team?
足球队在决赛加时后输掉了比赛。 | 球队的冠军赛结果怎么样？
Bees dance to tell one another where the flowers are. | How do bees share where to find food?
蜜蜂用舞蹈告诉同伴花在哪里。 | 蜜蜂怎样把食物的位置告诉别的蜜蜂？
The mayor promised two hundred new homes for young families. | What will the town build for young parents?
市长承诺为年轻家庭建两百套新房。 | 市里要为年轻父母盖什么？
Snow blocked the mountain road and stopped all buses. | Why is there no bus over the mountains?
大雪封住了山路，所有客车停运。 | 山里为什么没有班车？
The hospital is looking for people who will give blood. | Who needs blood donors?
医院正在寻找愿意献血的人。 | 哪里需要献血者？
Phones must be switched off during the examination. | May I use my mobile while taking the test?
考试期间必须关闭手机。 | 测验时能用手机吗？
The bakery on the corner sells its bread at half price after six. | Where is bread cheap in the evening?
街角的面包店六点以后面包半价。 | 晚上哪里的面包便宜？
The pandas at the zoo had twins last week. | Which animals were born at the zoo?
动物园的大熊猫上周生了双胞胎。 | 动物园有什么动物出生了？
Running three times a week lowers blood pressure. | How can exercise help against high blood pressure?
每周跑步三次可以降低血压。 | 运动怎样帮助高血压病人？
The moon is slowly moving away from the earth. | Does the distance between us and the moon change?
月球正在慢慢远离地球。 | 我们和月亮的距离会变吗？
The bank raised interest on savings to three percent. | How much do I get for the money in my account?
银行把存款利率提高到百分之三。 | 我账户里的钱有多少利息？
The singer cancelled her concert because of a sore throat. | Why did the show of the singer not take place?
女歌手因嗓子疼取消了演唱会。 | 那位歌手的演出为什么没办？
Solar panels now cover the roof of the primary school. | Where does the school get its electricity from?
小学的屋顶现在铺满了太阳能板。 | 学校的电从哪里来？
Fishermen found an old ship at the bottom of the lake. | What was discovered under water?
渔民在湖底发现了一艘古船。 | 水下发现了什么？
The post office no longer delivers letters on Saturdays. | Does mail come at the weekend?
邮局星期六不再送信。 | 周末还有信送来吗？
Drivers under twenty have the most accidents at night. | Who crashes most often after dark?
二十岁以下的司机夜间事故最多。 | 天黑后谁最容易出车祸？
The film about the blind painter won first prize. | Which movie got the award?
讲述盲人画家的电影获得了一等奖。 | 哪部电影得了奖？
The river is clean enough to swim in again. | Can people bathe in the river?
这条河又干净得可以游泳了。 | 可以在河里洗澡吗？
Cats sleep about fifteen hours a day. | For how long does a cat rest?
猫每天大约睡十五个小时。 | 小猫要休息多久？
The factory will dismiss four hundred workers next year. | How many people lose their jobs at the plant?
工厂明年将裁掉四百名工人。 | 这家厂有多少人要失业？
An earthquake shook the coast early this morning. | Where did the ground shake today?
今天清晨沿海发生了地震。 | 今天哪里地面摇晃？
The university offers free evening courses in cooking. | Where can I learn to cook without paying?
大学晚上开设免费的烹饪课。 | 哪里可以免费学做菜？
Chess is now a subject at two hundred schools. | Which board game do pupils learn in class?
两百所学校把国际象棋列为课程。 | 学生在课堂上学哪种棋？
Too much salt is bad for the kidneys. | What should I eat less of for healthy kidneys?
吃盐太多对肾不好。 | 想要肾健康应该少吃什么？
The last typewriter factory in the country has closed. | Are typewriters still made here?
全国最后一家打字机厂关门了。 | 这里还生产打字机吗？
Tickets for the night train must be booked two weeks ahead. | How early do I have to reserve a sleeper train?
夜班火车票须提前两周预订。 | 卧铺列车要提前多久订？
Scientists taught a robot to fold shirts. | What household work can the machine do?
科学家教会了机器人叠衬衫。 | 机器能做什么家务？
A lost dog walked home over three hundred kilometres. | How far did the animal go to find its owner?
一只走失的狗走了三百公里回到家。 | 那只动物走了多远找到主人？
The tax on plastic bags has cut waste on the beaches. | Why is there less rubbish by the sea?
塑料袋税减少了海滩上的垃圾。 | 海边的垃圾为什么变少了？
Children who read aloud learn new words faster. | How do kids build up their vocabulary?
大声朗读的孩子学新词更快。 | 小孩怎样增加词汇量？
The theatre gives tickets to students for five euros. | What does a play cost with a student card?
剧院给学生的票价是五欧元。 | 有学生证看戏要多少钱？
Strong wind tore the roof off the market hall. | What did the storm do to the market?
大风掀掉了市场大厅的屋顶。 | 暴风给市场造成了什么损失？
"""


@dataclass(frozen=True)
class Clip:
    """What is said somewhere in the podcast.

    Attributes:
        text: the words.
        language: that they are in.
        file: name of the episode.
        start: second at which it begins.
        end: second at which it ends.
    """

    text: str
    language: str
    file: str
    start: float
    end: float


def middle(text: str) -> str:
    """The middle 60 % of a text: of its words, or of its characters where it has no spaces."""
    parts = text.split() if " " in text.strip() else list(text.strip())
    cut = len(parts) // 5
    return (" " if " " in text.strip() else "").join(parts[cut : len(parts) - cut])


def by_turns(table: Sequence[Mapping[str, str]], clips: int, turn: int) -> list[Mapping[str, str]]:
    """As many clips of each language, at random (seed 0), ``turn`` of one and then as many of the other."""
    pools = [[row for row in table if row["language"] == language] for language in LANGUAGES]
    count = min(clips // len(pools), *map(len, pools))
    picked = [random.Random(0).sample(pool, count) for pool in pools]
    return [row for at in range(0, count, turn) for pool in picked for row in pool[at : at + turn]]


def write_episodes(rows: Sequence[Mapping[str, str]], speech: Path, folder: Path) -> list[Clip]:
    """Join clips into episodes as WAV files, and tell where each of them is."""
    pauses = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    clips = []
    for first in range(0, len(rows), EPISODE):
        name = f"episode {first // EPISODE + 1}.wav"
        sound: list[NDArray[np.float32]] = []
        at = 0
        for row in rows[first : first + EPISODE]:
            said = load_audio(speech / row["file"]).samples
            clips.append(Clip(row["text"], row["language"], name, at / SAMPLE_RATE, (at + len(said)) / SAMPLE_RATE))
            silence = np.zeros(round(pauses.uniform(0.8, 1.5) * SAMPLE_RATE), np.float32)
            sound += [said, silence]
            at += len(said) + len(silence)
        (folder / name).write_bytes(wav_bytes(Waveform(np.concatenate(sound))))
    return clips


def spans_of(clip: Clip, spans: Sequence[BaseNode]) -> set[str]:
    """Ids of the spans that have at least half of a clip's seconds, or, if none has, as many as any."""
    shared = {span.node_id: seconds for span in spans if (seconds := overlap(clip, span.metadata)) > 0}
    least = min((clip.end - clip.start) / 2, max(shared.values(), default=0.0))
    return {span for span, seconds in shared.items() if seconds >= least}


def overlap(clip: Clip, metadata: Mapping[str, Any]) -> float:
    """Seconds that a clip and a span share; negative or 0 if they share none."""
    if metadata["file_name"] != clip.file:
        return 0.0
    return float(min(clip.end, metadata["mm_end"]) - max(clip.start, metadata["mm_start"]))


def language(node: BaseNode) -> str:
    """Language that a node is in; empty where nobody speaks."""
    return str(node.metadata.get("mm_language") or "")


def every(index: MultiModalIndex, modality: str) -> list[BaseNode]:
    """All nodes of a modality."""
    return [*index.store.nodes(index.store.find(modalities=[modality]).tolist()).values()]


def heard(clips: Sequence[Clip], spans: Sequence[BaseNode]) -> dict[str, Any]:
    """What the pipeline made of the podcast: spans by language, and of which clips it told the language right."""
    by_id = {span.node_id: language(span) for span in spans}
    right = {
        name: float(
            np.mean([any(by_id[one] == name for one in spans_of(clip, spans)) for clip in clips if clip.language == name])
        )
        for name in LANGUAGES
    }
    return {"spans": {name: [*by_id.values()].count(name) for name in (*LANGUAGES, "")}, "language told": right}


def ask_podcast(index: MultiModalIndex, clips: Sequence[Clip], options: Mapping[str, Any]) -> dict[str, Any]:
    """Ask for each clip."""
    spans = every(index, "audio")
    retriever = index.as_retriever(similarity_top_k=DEPTH, **options)
    told: dict[str, Any] = {}
    for name in LANGUAGES:
        scores, first, places = [], [], []
        for clip in clips:
            if clip.language == name:
                found = retriever.retrieve(MediaQuery(middle(clip.text), modalities=["audio"]))
                scores.append(QueryScores([one.node.node_id for one in found], spans_of(clip, spans)))
                first.append(language(found[0].node) == name)
                places += [language(one.node) == name for one in found]
        told[name] = {
            **summarise(scores),
            "own first": float(np.mean(first)),
            "places": float(np.mean(places)),
            "fair": sum(language(span) == name for span in spans) / len(spans),
        }
    return told


def pairs() -> list[dict[str, tuple[str, str]]]:
    """For each fact, by language, what is said and how it is asked for."""
    lines = [line.split(" | ") for line in FACTS.strip().splitlines()]
    parsed = [(said, asked) for said, asked in lines]
    return [dict(zip(LANGUAGES, parsed[at : at + 2], strict=True)) for at in range(0, len(parsed), 2)]


def facts_index(spans: Sequence[BaseNode], folder: Path) -> MultiModalIndex:
    """Make an index of the facts and of what is said in the podcast, as texts with a language."""
    texts = [(f"{at} {name}", said, name) for at, pair in enumerate(pairs()) for name, (said, _) in pair.items()]
    texts += [(span.node_id, span.get_content(), language(span)) for span in spans if language(span)]
    hidden = ["mm_language"]
    nodes = [
        TextNode(
            id_=name,
            text=text,
            metadata={"mm_language": spoken},
            excluded_embed_metadata_keys=hidden,
            excluded_llm_metadata_keys=hidden,
        )
        for name, text, spoken in texts
    ]
    return MultiModalIndex.from_documents(nodes, folder=folder, num_workers=0)


def names(found: Sequence[NodeWithScore]) -> list[str]:
    """The texts found, by what `facts_index` calls them."""
    return list(dict.fromkeys(one.node.ref_doc_id or one.node.node_id for one in found))


def ask_facts(index: MultiModalIndex, options: Mapping[str, Any], *, both: bool = False) -> dict[str, Any]:
    """Ask for each fact in each language, or once in both."""
    near, deep = (index.as_retriever(similarity_top_k=k, modalities=["text"], **options) for k in (NEAR, DEPTH))
    told: dict[str, Any] = {}
    rankings = []
    for name in ("en + zh",) if both else LANGUAGES:
        first, pair_found = [], []
        for at, pair in enumerate(pairs()):
            words = [asked for _, asked in pair.values()] if both else [pair[name][1]]
            query = QueryBundle(words[0], custom_embedding_strs=words)
            items = {one: {f"{at} {one}"} for one in LANGUAGES}
            said = set.union(*items.values())
            rankings.append(FactRanking(at, name, items, names(deep.retrieve(query))))
            few = names(near.retrieve(query))
            first.append(hit_at(1, few, said))
            pair_found.append(recall_at(NEAR, few, said))
        told[name] = {"R@1": float(np.mean(first)), "both@5": float(np.mean(pair_found))}
    skew = language_skew(rankings)
    for name, row in skew.asked.items():
        told[name]["first"] = {one: share.mean for one, share in row.first.items()}
        told[name]["gap"] = None if row.gap is None else row.gap.mean * (-1 if name == LANGUAGES[1] else 1)
    return {**told, "skew": str(skew)}


def opened(given: argparse.Namespace, folder: Path) -> tuple[MultiModalIndex, MultiModalIndex, list[Clip]]:
    """The podcast's index and that of the facts, made where they are not there yet, and the clips."""
    speech = given.data / "speech"
    with (speech / "transcripts.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    rows = by_turns(table, given.clips, given.turn)
    others = [speech / row["file"] for row in table if row not in rows] if given.others else []
    place = folder / f"{len(rows)} clips, {given.turn} a turn, {len(others)} others"
    clips = write_episodes(rows, speech, place / "episodes")
    podcast = MultiModalIndex.open(place / "podcast", create=True)
    podcast.ingest([place / "episodes", *others], show_progress=not given.json, num_workers=0)
    if (place / "facts").exists():
        return podcast, MultiModalIndex.open(place / "facts"), clips
    return podcast, facts_index(every(podcast, "audio"), place / "facts"), clips


def show(told: Mapping[str, Any]) -> None:
    """Print the tables."""
    print(f"podcast: {told['seconds']:.0f} s; spans {told['heard']['spans']}; language told {told['heard']['language told']}")
    for setting, by_language in told["podcast"].items():
        for name, row in by_language.items():
            cells = " ".join(f"{key} {100 * row[key]:5.1f}" for key in ("R@1", "R@5", "R@10", "own first", "places", "fair"))
            print(f"{setting:24} {name:8} {cells}  n {row['queries']:.0f}")
    print(f"facts: {len(pairs())} in two languages")
    for setting, by_language in told["facts"].items():
        for name, row in by_language.items():
            if name != "skew":
                cells = " ".join(f"{one} first {100 * share:5.1f}" for one, share in row["first"].items())
                gap = "" if row["gap"] is None else f" gap {row['gap']:5.1f}"
                print(f"{setting:24} {name:8} R@1 {100 * row['R@1']:5.1f} both@5 {100 * row['both@5']:5.1f} {cells}{gap}")
    for setting in ("balance 0", "balance 1"):
        print(f"{setting}:\n{told['facts'][setting]['skew']}")


def main() -> None:
    """Parse the command line, make the podcast, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="folder to keep episodes and indexes in; a temporary one if not given")
    parser.add_argument("--clips", type=int, default=60, help="in all, half of them in each language")
    parser.add_argument("--turn", type=int, default=5, help="clips in one language before the other has its turn")
    parser.add_argument("--others", action="store_true", help="also take in the clips left over, as recordings of their own")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        podcast, facts, clips = opened(given, given.store or Path(scratch))
        with podcast, facts:
            ends = {clip.file: clip.end for clip in clips}
            told = {
                "seconds": sum(ends.values()),
                "heard": heard(clips, every(podcast, "audio")),
                "podcast": {name: ask_podcast(podcast, clips, options) for name, options in SETTINGS.items()},
                "facts": {
                    **{name: ask_facts(facts, options) for name, options in SETTINGS.items()},
                    **{
                        f"{name}, both at once": ask_facts(facts, SETTINGS[name], both=True)
                        for name in ("balance 0", "balance 1")
                    },
                },
            }
    if given.json:
        json.dump(told, sys.stdout, indent=2, ensure_ascii=False)
    else:
        show(told)


if __name__ == "__main__":
    main()
