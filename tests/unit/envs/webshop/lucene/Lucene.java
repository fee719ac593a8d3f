import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.apache.lucene.analysis.Analyzer;
import org.apache.lucene.analysis.TokenStream;
import org.apache.lucene.analysis.en.EnglishAnalyzer;
import org.apache.lucene.analysis.tokenattributes.CharTermAttribute;
import org.apache.lucene.document.Document;
import org.apache.lucene.document.Field;
import org.apache.lucene.document.SortedDocValuesField;
import org.apache.lucene.document.StringField;
import org.apache.lucene.document.TextField;
import org.apache.lucene.index.DirectoryReader;
import org.apache.lucene.index.IndexWriter;
import org.apache.lucene.index.IndexWriterConfig;
import org.apache.lucene.index.Term;
import org.apache.lucene.search.BooleanClause;
import org.apache.lucene.search.BooleanQuery;
import org.apache.lucene.search.BoostQuery;
import org.apache.lucene.search.FieldDoc;
import org.apache.lucene.search.IndexSearcher;
import org.apache.lucene.search.Query;
import org.apache.lucene.search.ScoreDoc;
import org.apache.lucene.search.Sort;
import org.apache.lucene.search.SortField;
import org.apache.lucene.search.TermQuery;
import org.apache.lucene.search.similarities.BM25Similarity;
import org.apache.lucene.store.FSDirectory;
import org.apache.lucene.util.BytesRef;

/**
 * What a real Lucene answers, as Pyserini's LuceneSearcher sets it up: EnglishAnalyzer, BM25 with k1 0.9 and b 0.4, a
 * bag of the query's words, ties by document id.
 *
 * <pre>
 * Lucene analyze                 lines of text on stdin -> their terms, separated by tabs
 * Lucene search DOCUMENTS FOLDER queries on stdin -> "id score" of the best 10, separated by tabs
 * </pre>
 *
 * DOCUMENTS has a line "id TAB text" for each; FOLDER is empty and takes the index.
 */
public final class Lucene {
    private static final String TEXT = "contents";
    private static final String ID = "id";
    private static final Analyzer ANALYZER = new EnglishAnalyzer();

    public static void main(String[] arguments) throws IOException {
        PrintStream out = new PrintStream(System.out, false, "UTF-8");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        if (arguments[0].equals("analyze")) {
            for (String line; (line = in.readLine()) != null; ) {
                out.println(String.join("\t", terms(line)));
            }
        } else {
            search(Paths.get(arguments[1]), Paths.get(arguments[2]), in, out);
        }
        out.flush();
    }

    private static List<String> terms(String text) throws IOException {
        List<String> terms = new ArrayList<>();
        try (TokenStream stream = ANALYZER.tokenStream(TEXT, text)) {
            CharTermAttribute term = stream.addAttribute(CharTermAttribute.class);
            stream.reset();
            while (stream.incrementToken()) {
                terms.add(term.toString());
            }
            stream.end();
        }
        return terms;
    }

    private static void search(Path documents, Path folder, BufferedReader queries, PrintStream out) throws IOException {
        BM25Similarity similarity = new BM25Similarity(0.9f, 0.4f);
        try (FSDirectory directory = FSDirectory.open(folder)) {
            IndexWriterConfig config = new IndexWriterConfig(ANALYZER).setSimilarity(similarity);
            try (IndexWriter writer = new IndexWriter(directory, config); Stream<String> lines = Files.lines(documents)) {
                for (String line : (Iterable<String>) lines::iterator) {
                    int tab = line.indexOf('\t');
                    String id = line.substring(0, tab);
                    Document document = new Document();
                    document.add(new StringField(ID, id, Field.Store.YES));
                    document.add(new SortedDocValuesField(ID, new BytesRef(id)));
                    document.add(new TextField(TEXT, line.substring(tab + 1), Field.Store.NO));
                    writer.addDocument(document);
                }
                writer.forceMerge(1);
            }
            try (DirectoryReader reader = DirectoryReader.open(directory)) {
                IndexSearcher searcher = new IndexSearcher(reader);
                searcher.setSimilarity(similarity);
                Sort order = new Sort(SortField.FIELD_SCORE, new SortField(ID, SortField.Type.STRING_VAL));
                for (String line; (line = queries.readLine()) != null; ) {
                    List<String> hits = new ArrayList<>();
                    for (ScoreDoc hit : searcher.search(bagOfWords(line), 10, order, true).scoreDocs) {
                        hits.add(searcher.doc(hit.doc).get(ID) + " " + ((FieldDoc) hit).fields[0]);
                    }
                    out.println(String.join("\t", hits));
                }
            }
        }
    }

    private static Query bagOfWords(String text) throws IOException {
        Map<String, Integer> counts = new LinkedHashMap<>();
        for (String term : terms(text)) {
            counts.merge(term, 1, Integer::sum);
        }
        BooleanQuery.Builder query = new BooleanQuery.Builder();
        counts.forEach((term, count) ->
            query.add(new BoostQuery(new TermQuery(new Term(TEXT, term)), count), BooleanClause.Occur.SHOULD));
        return query.build();
    }
}
